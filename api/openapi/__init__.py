"""The description of the API, complete: what flask-smorest gathers, and what holds everywhere."""
