"""The environments that policies are evaluated in, and checks that the data comes from the same ones."""
