from tests.support.quantization import prepared

__all__ = ["prepared"]
