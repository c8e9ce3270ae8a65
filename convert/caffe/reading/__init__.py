"""Prototxts and caffemodels, read without Caffe."""
