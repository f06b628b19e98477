"""The environments that policies are rolled out in, and whether they are the ones that data comes from."""
