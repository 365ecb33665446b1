"""`train --objective adapt`: a backbone learns from images without labels which differences are noise."""
