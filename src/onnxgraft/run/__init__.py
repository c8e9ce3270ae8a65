"""Running networks and comparing what they answer."""
