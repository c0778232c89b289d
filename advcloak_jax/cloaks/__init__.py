"""Ways of making masks, all behind one signature."""
