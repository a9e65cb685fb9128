"""Results for people: report, model card, tables, plots."""
