"""Labels of other formats and public sets as rows of the manifest."""
