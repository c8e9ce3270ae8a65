"""The report as text, HTML and JUnit."""
