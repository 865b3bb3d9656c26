"""The book's figures: one style, reproducible SVG that reads in light and dark, and animations that play in static HTML."""

from .animate import animation
from .chunks import chunk_diagram
from .scans import draw_scan, scan_animation, scan_diagram
from .style import COLORS, setup, show

__all__ = ["COLORS", "animation", "chunk_diagram", "draw_scan", "scan_animation", "scan_diagram", "setup", "show"]
