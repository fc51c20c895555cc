import os

from django.conf import settings

LOG = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"stderr": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["stderr"]},
}

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="for tests", LOGGING=LOG)

from django.core.asgi import get_asgi_application  # noqa: E402  # Django wants its settings first
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.http import HttpResponse, JsonResponse, StreamingHttpResponse  # noqa: E402
from django.urls import path  # noqa: E402
from django.views.decorators.csrf import csrf_exempt  # noqa: E402


def who(request):
    return JsonResponse({"pid": os.getpid(), "path": request.path, "scheme": request.scheme})


@csrf_exempt
def length(request):
    return HttpResponse(str(sum(len(chunk) for chunk in iter(lambda: request.read(10_000), b""))))


def stream(request):
    return StreamingHttpResponse(b"%03d\n" % number for number in range(100))


def boom(request):
    raise ZeroDivisionError("the view's own trouble")


urlpatterns = [path("", who), path("length", length), path("stream", stream), path("boom", boom)]

asgi = get_asgi_application()
wsgi = get_wsgi_application()
