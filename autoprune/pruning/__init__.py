"""Importance scores, sensitivity, masks, surgery and repair."""
