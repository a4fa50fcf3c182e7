"""The report on a folder of images, with its verdict, and the page of answers."""
