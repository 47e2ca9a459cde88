"""The compatibility of the user's classes with Determined, found before anything is trained."""
