"""From the evaluation folders of a study to its report: cells, table, figures, and the page itself."""
