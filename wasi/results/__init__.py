"""Raw results kept in git (results/NAME/*.json), and the tables of the documents that are made from them."""
