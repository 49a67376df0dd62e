"""Reports of the commands as text, JSON, HTML, Markdown, JUnit XML and plots."""
