"""Ray, which nothing outside of this folder imports."""
