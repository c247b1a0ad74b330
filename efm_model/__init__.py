"""The embodied foundation model: images and an instruction in, action tokens and steps-to-go out."""
