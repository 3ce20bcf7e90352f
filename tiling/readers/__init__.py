"""Slide libraries behind one interface; nothing outside this folder imports them."""
