"""Makes `report.html`, one page that needs only a browser: the script that draws its figures is part of it."""
