"""What happens around every request. Pure ASGI: `BaseHTTPMiddleware` costs a task and a queue per request, and breaks
cancellation and context.
"""
