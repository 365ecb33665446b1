"""Options of the small trainings that the tests of training share."""

KINDS = ("balls", "stars", "tents")
SMALL = {"architecture": "cnn", "size": 32, "dims": 32, "batch_size": 18, "epochs": 4, "validation": 0.25}
HEAD = {"batch_size": 18, "epochs": 8, "size": 64, "dims": 16, "validation": 0.25}
DETECTOR = {"objective": "detect", "size": 64, "epochs": 2, "batch_size": 4}
