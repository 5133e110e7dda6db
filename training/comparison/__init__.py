"""What `compare` is made of: the models, one pass over the data, costs, verdicts, figures and the page."""
