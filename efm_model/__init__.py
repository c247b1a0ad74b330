"""The embodied foundation model: images and words in, action tokens and steps-to-go out."""
