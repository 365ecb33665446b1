"""`train --objective detect`: a detector that learns from scenes made of catalog images."""
