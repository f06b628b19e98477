"""How the artifact of each cell is made from prepared data, other artifacts and settings, without DVC and MLflow."""
