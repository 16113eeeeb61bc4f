"""Store: where input, models and output are kept; output.py has the verbs over an output."""
