"""facekd/teacher."""
