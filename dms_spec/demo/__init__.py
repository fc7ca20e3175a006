"""Holds the demonstration behind ``dms demo``: real scans of digits, seen through four views.

Needs the extra ``demo`` (scikit-learn and matplotlib); nothing else imports it.
"""
