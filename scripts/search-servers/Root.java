import java.util.List;
import org.elasticsearch.Build;
import org.elasticsearch.client.internal.node.NodeClient;
import org.elasticsearch.rest.RestChannel;
import org.elasticsearch.rest.RestHandler;
import org.elasticsearch.rest.RestRequest;
import org.elasticsearch.rest.RestResponse;
import org.elasticsearch.rest.RestStatus;

/** The answer to `GET /`. */
class Root implements RestHandler {
  @Override
  public List<Route> routes() {
    return List.of(new Route(RestRequest.Method.GET, "/"), new Route(RestRequest.Method.HEAD, "/"));
  }

  @Override
  public void handleRequest(RestRequest request, RestChannel channel, NodeClient client) {
    String body =
        "{\"version\":{\"number\":\""
            + Build.current().version()
            + "\",\"build_flavor\":\"default\"},\"tagline\":\"You Know, for Search\"}";
    channel.sendResponse(new RestResponse(RestStatus.OK, "application/json", body));
  }
}
