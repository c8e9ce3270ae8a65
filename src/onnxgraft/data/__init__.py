"""What networks are fed: preprocessing, images, samples, labels; and the ranges measured on it."""
