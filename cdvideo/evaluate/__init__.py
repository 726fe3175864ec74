"""Looking at pictures from outside: how well they fit a text, and how like they are to others."""
