"""Which units leave, and how: importance, masks, surgery, repair."""
