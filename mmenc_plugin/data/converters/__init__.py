"""Data sets of other toolkits as RecBole's atomic files; one file a toolkit."""
