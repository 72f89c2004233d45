"""What is done to an image before the model sees it, and how far it then is from the clean one."""
