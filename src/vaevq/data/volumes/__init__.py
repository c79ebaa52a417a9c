"""Volumes as slices: NIfTI files and DICOM series, of one subject or of many, as images of floating point."""
