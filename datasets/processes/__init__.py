"""Work in processes of their own, on one machine or several: deadlines, what is done already, a full disk."""
