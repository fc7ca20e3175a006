"""The demonstration behind ``dms demo``: real scans of digits, seen through four views.

Needs scikit-learn and matplotlib (``pip install 'dms-spec[demo]'``); nothing else imports it.
"""
