"""A DICOM node that grades lumbar spinal stenosis on axial T2 MRI. Research software, not for clinical use."""

__version__ = "0.1.0"

__all__ = ["__version__"]
