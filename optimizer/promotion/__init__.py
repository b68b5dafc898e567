"""Whether a candidate replaces what is in use, on runs that the search has not seen.

statistics.py  paired cluster bootstrap, exact binomial bounds, Holm, how many runs would do
decide.py      the rule, and its verdict: promote, keep, or not enough evidence
"""
