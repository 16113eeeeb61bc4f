"""The report as one page of HTML: facts.py reads, draw.py draws, make.py puts it together."""
