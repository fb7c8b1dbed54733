"""The page about a run: one HTML file that loads nothing, with plots and tables made from round records.

Its parts:

    page        the whole, and its head              session     a session of roles
    progress    measures by round and site           costs       time and bytes
    tables      models, sites, rounds                measures    what is named, and numbers as text
    plots       lines and bars as SVG
"""
