"""`report.html`: one page that needs nothing but a browser. The figures are Vega-Lite's, its script comes along."""
