"""What benchmarks leave behind: JSON, Markdown, pictures and one HTML page."""

from report.files import markdown_table, write_json

__all__ = ["markdown_table", "write_json"]
