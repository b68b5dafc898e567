"""One script for each page; Streamlit runs the one that the address names, nothing imports them."""
