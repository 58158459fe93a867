"""Build it yourself in ten steps, and break it in six ways: see README.md."""
