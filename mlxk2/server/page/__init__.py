"""The pages for people, as package data."""
