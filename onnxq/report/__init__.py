"""Reports as text, JSON, HTML, Markdown, JUnit XML and plots; nothing here measures anything."""
