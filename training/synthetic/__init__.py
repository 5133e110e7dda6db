"""Generated street scenes, for trying out and testing the software without a data set."""
