"""The book's figures: one style, reproducible SVG that reads in light and dark, and animations that play in static HTML."""

from .animate import animation
from .style import COLORS, setup, show

__all__ = ["COLORS", "animation", "setup", "show"]
