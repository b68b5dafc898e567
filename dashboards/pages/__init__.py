"""One module for each page, each with a function `show` that draws it."""
