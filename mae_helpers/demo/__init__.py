"""How the bundled demo came to be: its 500 images, its three small models, and the recipe that trained them."""
