"""Every setting of both roles, read once from the environment. docs/settings.md explains them."""

from __future__ import annotations

from pathlib import Path

from fdrouter import env

BASE_DIR = Path(__file__).resolve().parent.parent

# --- role and identity ------------------------------------------------------------------------------------------
ROLE = env.text("FDROUTER_ROLE", choices=("coordinator", "node", "all"))
IS_COORDINATOR = ROLE in ("coordinator", "all")
IS_NODE = ROLE in ("node", "all")
IDENTITY_DIR = env.path("FDROUTER_IDENTITY_DIR", BASE_DIR / "identity")
NODE_ID = env.text("FDROUTER_NODE_ID", "")
HOSPITAL_ID = env.text("FDROUTER_HOSPITAL_ID", NODE_ID)

# --- secrets ----------------------------------------------------------------------------------------------------
SECRET_KEY = env.secret("FDROUTER_SECRET_KEY")
DATA_KEY = env.key("FDROUTER_DATA_KEY")

# --- web --------------------------------------------------------------------------------------------------------
DEBUG = env.boolean("FDROUTER_DEBUG", False)
BASE_URL = env.text("FDROUTER_BASE_URL", "http://localhost:8080")
SECURE_TRANSPORT = BASE_URL.startswith("https://")
ALLOWED_HOSTS = env.words("FDROUTER_ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]")
CSRF_TRUSTED_ORIGINS = [BASE_URL]
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_TRANSPORT
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_AGE = env.integer("FDROUTER_SESSION_SECONDS", 8 * 3600, minimum=60)
SECURE_HSTS_SECONDS = 31536000 if SECURE_TRANSPORT else 0
SECURE_SSL_REDIRECT = False  # The proxy in front redirects; health probes arrive without TLS.
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if SECURE_TRANSPORT else None
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
ROOT_URLCONF = "fdrouter.urls"
ASGI_APPLICATION = "fdrouter.asgi.application"
LOGIN_URL = "accounts:sign-in"
LOGIN_REDIRECT_URL = "federation:ask"
DATA_UPLOAD_MAX_MEMORY_SIZE = 512 * 1024

_SELF = "'self'"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [_SELF],
        "img-src": [_SELF, "data:"],
        "connect-src": [_SELF],
        "object-src": ["'none'"],
        "base-uri": [_SELF],
        "form-action": [_SELF],
        "frame-ancestors": ["'none'"],
    }
}

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.postgres",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "channels",
    "axes",
    "auditlog",
    "fdrouter.apps.FdrouterConfig",
    "accounts.apps.AccountsConfig",
    "privacy.apps.PrivacyConfig",
    "federation.apps.FederationConfig",
    "compliance.apps.ComplianceConfig",
]
if IS_NODE:
    INSTALLED_APPS.append("federation.node.apps.NodeConfig")

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "fdrouter.statics.StaticFiles",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "auditlog.middleware.AuditlogMiddleware",
    "fdrouter.problems.PageErrorMiddleware",
    "axes.middleware.AxesMiddleware",
]

if ROLE == "node":  # a node has no pages, no sessions and no cookies
    MIDDLEWARE = ["django.middleware.security.SecurityMiddleware"]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "fdrouter.context.page",
            ],
        },
    }
]

STATIC_URL = "/static/"
STATIC_ROOT = env.path("FDROUTER_STATIC_ROOT", BASE_DIR / "staticfiles")
STATICFILES_DIRS = [BASE_DIR / "static"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if DEBUG or ROLE == "all"
        else "whitenoise.storage.CompressedManifestStaticFilesStorage"
    },
}
WHITENOISE_USE_FINDERS = WHITENOISE_AUTOREFRESH = DEBUG or ROLE == "all"
MEDIA_ROOT = env.path("FDROUTER_MEDIA_ROOT", BASE_DIR / "media")

# --- people -----------------------------------------------------------------------------------------------------
AUTH_USER_MODEL = "accounts.User"
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
PASSWORD_HASHERS = [
    "django.contrib.auth.hashers.Argon2PasswordHasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
AXES_FAILURE_LIMIT = 8
AXES_COOLOFF_TIME = 0.25  # hours
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_ENABLE_ACCESS_FAILURE_LOG = False
AXES_VERBOSE = False

# --- data -------------------------------------------------------------------------------------------------------
DATABASES = {"default": env.postgres("DATABASE_URL") | {"CONN_MAX_AGE": 0}}
if ROLE != "all":  # tests and commands open few connections and drop whole databases
    DATABASES["default"]["OPTIONS"] = {
        # An attempt to connect is given up early: the next caller starts a new one, without the old one's long pauses.
        "pool": {"min_size": 1, "max_size": 8, "timeout": 10, "reconnect_timeout": 2},
        **DATABASES["default"]["OPTIONS"],  # type: ignore[dict-item]
    }
DATABASE_URL = env.secret("DATABASE_URL")
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
REDIS_URL = env.text("REDIS_URL", "" if ROLE == "node" else None)
CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}

# --- the request path -------------------------------------------------------------------------------------------
LEASE_SECONDS = env.number("FDROUTER_LEASE_SECONDS", 10.0, minimum=1.0)
#: Whether this hospital's sums for each token may go to the coordinator without noise (a text of several hospitals).
WRITE_TOGETHER = env.boolean("FDROUTER_WRITE_TOGETHER", False)
RESERVATION_SECONDS = env.integer("FDROUTER_RESERVATION_SECONDS", 900, minimum=10)
ANSWER_TIMEOUT_SECONDS = env.number("FDROUTER_ANSWER_TIMEOUT_SECONDS", 300.0, minimum=1.0)
MAX_ATTEMPTS = env.integer("FDROUTER_MAX_ATTEMPTS", 3, minimum=1)
NODE_CONNECT_SECONDS = env.number("FDROUTER_NODE_CONNECT_SECONDS", 5.0, minimum=0.1)
NODE_READ_SECONDS = env.number("FDROUTER_NODE_READ_SECONDS", 120.0, minimum=0.1)

# --- the node ---------------------------------------------------------------------------------------------------
ENGINE_URL = env.text("FDROUTER_ENGINE_URL", "http://127.0.0.1:8100")
ENGINE_MODEL = env.text("FDROUTER_ENGINE_MODEL", "smollm2-135m-instruct")
MODEL_DIR = env.path("FDROUTER_MODEL_DIR", BASE_DIR / "model")
DATA_PATH = env.path("FDROUTER_DATA_PATH")
ENGINE_READ_SECONDS = env.number("FDROUTER_ENGINE_READ_SECONDS", 90.0, minimum=0.1)

# --- policy and quotas ------------------------------------------------------------------------------------------
POLICY_FILE = env.path("FDROUTER_POLICY_FILE", BASE_DIR / "configs" / "policy" / "clinical.cedar")

# --- EHRs that call CDS Hooks -----------------------------------------------------------------------------------
CDS_CLIENTS_FILE = env.path("FDROUTER_CDS_CLIENTS_FILE")
#: Takes unsigned calls where no clients are configured. Never where real records are.
CDS_SANDBOX = env.boolean("FDROUTER_CDS_SANDBOX", False)

# --- mail: scheduled reports ------------------------------------------------------------------------------------
EMAIL_HOST = env.text("FDROUTER_SMTP_HOST", "")
EMAIL_PORT = env.integer("FDROUTER_SMTP_PORT", 587, minimum=1)
EMAIL_HOST_USER = env.text("FDROUTER_SMTP_USER", "")
EMAIL_HOST_PASSWORD = env.secret("FDROUTER_SMTP_PASSWORD") if EMAIL_HOST_USER else ""
_SMTP_SECURITY = env.text("FDROUTER_SMTP_SECURITY", "starttls", choices=("starttls", "tls", "none"))
EMAIL_USE_TLS, EMAIL_USE_SSL = _SMTP_SECURITY == "starttls", _SMTP_SECURITY == "tls"
EMAIL_TIMEOUT = 10
DEFAULT_FROM_EMAIL = env.text("FDROUTER_MAIL_FROM", "fdrouter@localhost")

# --- time, language ---------------------------------------------------------------------------------------------
USE_TZ = True
TIME_ZONE = env.text("FDROUTER_TIME_ZONE", "UTC")
LANGUAGE_CODE = "en-us"
USE_I18N = False

# --- REST -------------------------------------------------------------------------------------------------------
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "accounts.tokens.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "DEFAULT_PAGINATION_CLASS": "rest_framework.pagination.LimitOffsetPagination",
    "PAGE_SIZE": 50,
    "EXCEPTION_HANDLER": "fdrouter.api.exception_handler",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "fdrouter",
    "DESCRIPTION": "Answers from hospital language models under differential privacy, and the evidence for them.",
    "VERSION": "0.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.IsAuthenticated"],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
}

# --- Celery (docs/queues.md holds the queue map) ----------------------------------------------------------------
CELERY_BROKER_URL = REDIS_URL
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_TASK_DEFAULT_QUEUE = "default"
CELERY_TASK_ROUTES = {
    "federation.tasks.dispatch": {"queue": "dispatch"},
    "compliance.tasks.tend_log": {"queue": "default"},
    "compliance.tasks.witness_log": {"queue": "default"},
    "compliance.tasks.find_anomalies": {"queue": "default"},
    "compliance.tasks.*": {"queue": "reports"},
}
CELERY_TASK_TIME_LIMIT = 600
CELERY_TASK_SOFT_TIME_LIMIT = 540
CELERY_WORKER_PREFETCH_MULTIPLIER = 16
CELERY_WORKER_ENABLE_REMOTE_CONTROL = False
CELERY_WORKER_SEND_TASK_EVENTS = False
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_TRANSPORT_OPTIONS = {
    # Longer than a lease: the lease finds lost work first, the broker's redelivery is the second net.
    "visibility_timeout": 900,
    "unacked_restore_interval": 10,
    "unacked_restore_throttle": 1,
}
CELERY_TIMEZONE = TIME_ZONE
CELERY_BEAT_SCHEDULE = {
    "reconcile": {"task": "federation.tasks.reconcile", "schedule": 600.0},
    "expire-reservations": {"task": "federation.tasks.expire_reservations", "schedule": 30.0},
    "probe-nodes": {"task": "federation.tasks.probe_nodes", "schedule": 10.0},
    # A message that waited behind a long task is stale: the next one does the same.
    "tend-log": {"task": "compliance.tasks.tend_log", "schedule": 1.0, "options": {"expires": 5.0}},
    "witness-log": {"task": "compliance.tasks.witness_log", "schedule": 30.0, "options": {"expires": 30.0}},
    "resume-reports": {"task": "compliance.tasks.resume_reports", "schedule": 60.0},
    "scheduled-reports": {"task": "compliance.tasks.scheduled_reports", "schedule": 120.0},
    "end-exceptions": {"task": "compliance.tasks.end_exceptions", "schedule": 600.0},
    "find-anomalies": {"task": "compliance.tasks.find_anomalies", "schedule": 600.0, "options": {"expires": 600.0}},
}

# --- logs: ids, sizes and digests only --------------------------------------------------------------------------
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": "fdrouter.logs.JsonFormatter"}},
    "filters": {"without_ticks": {"()": "fdrouter.logs.WithoutTicks"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json", "filters": ["without_ticks"]}},
    "root": {"handlers": ["stderr"], "level": env.text("FDROUTER_LOG_LEVEL", "INFO")},
    "loggers": {
        "django.request": {"level": "ERROR"},
        "axes": {"level": "ERROR"},
        "aiohttp.access": {"level": "ERROR"},
        "httpx": {"level": "WARNING"},
        "fontTools": {"level": "WARNING"},
        "weasyprint": {"level": "WARNING"},
    },
}
AUDITLOG_INCLUDE_ALL_MODELS = False
SILENCED_SYSTEM_CHECKS = ["security.W008"] if SECURE_TRANSPORT else ["security.W004", "security.W008", "security.W012"]
if ROLE == "node":  # nobody signs in at a node
    SILENCED_SYSTEM_CHECKS += ["axes.W002", "admin.E408", "admin.E409", "admin.E410"]
